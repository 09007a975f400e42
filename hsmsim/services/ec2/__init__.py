"""EC2 as far as an HSM cluster needs a network: zones, VPCs, subnets, security groups, interfaces, tags."""
