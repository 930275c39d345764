"""What only a build needs: systems, compilers, downloads, assembly, the universal file."""
