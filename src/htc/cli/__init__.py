"""The command line: one thin module a command, which parses, calls the library and prints. A command imports the
packages it needs when it runs, so that a wrong call is answered without torch.
"""
