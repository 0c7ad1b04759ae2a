"""What a lowered node takes in of the nodes around it, and how that is put back."""
