"""`python -m hsmsim.hsm.roots --home HOME`: serves the roots on its standard streams."""

from hsmsim.hsm.roots.process import main

if __name__ == "__main__":
    main()
