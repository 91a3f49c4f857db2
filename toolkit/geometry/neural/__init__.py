"""What trains, flows or is exported."""
