"""The channels that carry alerts: one module for each kind of receiver."""
