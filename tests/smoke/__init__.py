"""What a user does from day to day, each scenario with a real machine through the commands; `make smoke` runs them."""
