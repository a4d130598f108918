"""The one-machine platform behind `./okane up`: every part real, nothing of it ever deployed."""
