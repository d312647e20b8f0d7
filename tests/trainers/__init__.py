"""Real trainers, one step each on our files: `make test-trainers`, in a virtual environment of their own."""
