"""Does the artefact still answer as it did?"""
