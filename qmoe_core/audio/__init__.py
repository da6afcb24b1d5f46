"""Audio: decoding, log-mel spectrograms, pictures of them, and the gallery's synthetic sounds."""
