"""Components with JavaScript of their own: the microphone and the gallery."""
