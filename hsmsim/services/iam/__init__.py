"""IAM as far as authorisation needs it: users, groups, roles, keys and policies; who calls, and what they may do."""
