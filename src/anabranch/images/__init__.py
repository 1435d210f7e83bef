"""From bytes to pixels: `decode` a file, `preprocess` a picture as its zoo does, read `labelled` sets."""
