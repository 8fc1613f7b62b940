"""Set-up helpers of the tests; no tests here."""
