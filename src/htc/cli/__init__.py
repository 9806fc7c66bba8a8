"""The command line: one thin module per command, which parses the arguments, calls the library and prints the results.
A command imports the packages it needs when it runs, so that an invalid call is reported without importing torch.
"""
