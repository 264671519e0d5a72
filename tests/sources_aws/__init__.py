"""Sources that read services of AWS, over HTTP from a server on this machine that plays them."""
