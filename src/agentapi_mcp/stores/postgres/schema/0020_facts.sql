-- needs: 0.1.0
-- Holds the number of the facts, which are made beside this.
SELECT;
