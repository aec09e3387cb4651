"""Who may enter now: budgets of tenants, places at the engines, and a bounded fair queue where there is none free."""
