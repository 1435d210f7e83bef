"""What each verb of the command line does and prints. One file a verb, imported when it is asked for."""
