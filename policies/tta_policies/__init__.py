"""Which samples teach (select), and when the result may serve (gates)."""
