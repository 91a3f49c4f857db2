"""Geometry, quantum states, crystals and flows: analysis of networks, and the attention built on it.

Conventions, everywhere below:

- Batch: any leading shape *B; the index shapes of a docstring follow it.
- dtype: float64 and complex128 in analysis, float32 in neural modules; nothing is cast silently.
- Christoffel symbols: G[l, i, j] = 1/2 g^lm (d_i g_mj + d_j g_mi - d_m g_ij).
- Riemann tensor: R[l, i, j, k] = d_j G^l_ik - d_k G^l_ij + G^l_jm G^m_ik - G^l_km G^m_ij; Ric_ij = R^l_ilj;
  R = g^ij Ric_ij, so that the unit sphere has R = +2.
- Sectional curvature: R_lijk u^l v^i u^j v^k / (<u,u><v,v> - <u,v>^2), positive on spheres.
- Laplacian: div grad (spectrum <= 0) in flows; its negative (spectrum >= 0) for graphs and Hodge operators.
- Forms: a simplicial k-cochain is a vector over the k-simplices, vertices ascending; d is the signed coboundary.
- Quantum: <a|b> = sum conj(a) b; hbar = m = k_B = 1 unless passed; entropies in nats; |q0 q1> = kron(q0, q1).
- Bloch phases: H(k) = sum_R H_R exp(i k.R), and b_i . a_j = 2 pi delta_ij.
- Symplectic: J = [[0, I], [-I, 0]] on (q, p); omega(u, v) = u^T J v; {f, g} = d_q f . d_p g - d_p f . d_q g.
- Failure: an object that is none raises GeometryError with the offending value; no NaN is returned silently.
"""
