"""What the machine, the libraries and the model are like for the main job, as findings with what to do."""
