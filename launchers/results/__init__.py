"""What campaigns have found: asked for, exported, moved, taken over, tried again."""
