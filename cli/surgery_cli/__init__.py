"""The command line: parse, call one public name, print. Only this package prints."""
