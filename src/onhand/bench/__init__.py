"""What the command `bench` puts together: onhand beside an echo of its own server, and beside what a user would pick instead.

`wire` is the client that makes the load, `shapes` the messages, `echo` the ceiling, `figures` what is measured, `baselines` what
others would run, `stage` the stack with its processors, `run` the alternations, `report` the page that is written from them.
"""
