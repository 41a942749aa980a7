"""What a recipe is scored on: items with answers, metrics, splits and intervals."""
