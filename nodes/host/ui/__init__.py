"""What a run says of itself: the report, the map in the browser, progress."""
