"""The steps of :func:`mcd_graph.compress_model`: what is asked for, weights packed and written, proof, reasons."""
