"""Know before you train: the data, the proxies and the landscape at the aligned model."""
