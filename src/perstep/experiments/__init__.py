"""One module a question: plan, measure, analyse, show. `registry` lists them, `pipeline` runs them."""
