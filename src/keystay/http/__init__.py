"""HTTP as every flow needs it: requests, answers, clients, and what can go wrong between them."""
