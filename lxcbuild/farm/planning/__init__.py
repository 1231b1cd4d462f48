"""From requests to a plan of many builds, with the layers that they share."""
