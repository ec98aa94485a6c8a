"""History strategies, which select the earlier ratings shown for a target: each is a file and a conf/history/ YAML."""
