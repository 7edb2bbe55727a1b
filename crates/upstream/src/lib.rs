//! Which endpoint, and may we try again: load balancing, health, breakers, budgets. No I/O.
