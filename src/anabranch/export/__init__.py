"""From a net in torch to the files that the engines read."""
