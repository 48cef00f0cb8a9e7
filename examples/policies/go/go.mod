module guard-paths

go 1.24
