"""What can be asked: every node and field, typed and described; pure declarations."""
