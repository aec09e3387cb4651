"""Admission control: limits per tenant, slots at the replicas, and a bounded fair queue while all slots are held."""
