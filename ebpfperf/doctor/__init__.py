"""The troubleshooting checks: evidence → verdict, evidence shown, remedy. Pure."""
