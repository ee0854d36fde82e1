"""START HERE: config -> plan -> model -> split -> method -> driver -> run folder."""
