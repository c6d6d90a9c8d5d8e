"""Stand-ins that are product: users test with them too. A crew without processes, a cluster in virtual time."""
