"""One file per revision, named by its number. A published revision is never edited."""
