"""What merges cost, against the floor of moving their bytes."""
