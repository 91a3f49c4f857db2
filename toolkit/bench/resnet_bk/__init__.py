"""Time, memory and worth of the ResNet-BK language model beside a transformer of as many parameters."""
