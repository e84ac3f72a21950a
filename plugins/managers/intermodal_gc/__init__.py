"""The manager that schedules collections."""
