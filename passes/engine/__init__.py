"""What every rule shares: matching, facts of a model, validation, planning, and changing a model."""
