"""Rotation matrices from and to pan, tilt and roll: exact, vectorised, float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float64Array = NDArray[np.float64]


def nearest_rotations(matrices: ArrayLike) -> Float64Array:
    """Return the rotations nearest to (..., 3, 3) matrices in the Frobenius norm, by SVD."""
    u, _, vt = np.linalg.svd(np.asarray(matrices, dtype=np.float64))
    vt[..., 2, :] *= np.sign(np.linalg.det(u @ vt))[..., None]
    rotations: Float64Array = u @ vt
    return rotations


def rotations_from_angles(angles: Float64Array) -> Float64Array:
    """Return the camera-to-world steps Y(pan) X(tilt) Z(roll), (T, 3, 3), of (T, 3) angles in radians."""
    (cp, ct, cr), (sp, st, sr) = np.cos(angles).T, np.sin(angles).T
    rows = [
        [cp * cr + sp * st * sr, sp * st * cr - cp * sr, sp * ct],
        [ct * sr, ct * cr, -st],
        [cp * st * sr - sp * cr, sp * sr + cp * st * cr, cp * ct],
    ]
    return np.array(rows).transpose(2, 0, 1)


def angles_from_rotations(steps_c2w: Float64Array) -> Float64Array:
    """Invert `rotations_from_angles`: (T, 3, 3) -> (T, 3), pan and roll in [-pi, pi], tilt in [-pi/2, pi/2].

    Roll is read after pan is undone, so a tilt of pi/2, where pan is arbitrary, still gives back the same
    rotation.
    """
    m = steps_c2w
    pan = np.arctan2(m[:, 0, 2], m[:, 2, 2])
    cp, sp = np.cos(pan), np.sin(pan)
    tilt = np.arctan2(-m[:, 1, 2], sp * m[:, 0, 2] + cp * m[:, 2, 2])
    roll = np.arctan2(sp * m[:, 2, 1] - cp * m[:, 0, 1], cp * m[:, 0, 0] - sp * m[:, 2, 0])
    return np.stack([pan, tilt, roll], axis=1)


def rotation_angle(rotations: Float64Array) -> Float64Array:
    """Return the angle in [0, pi] of (T, 3, 3) rotations, accurate near zero unlike arccos of the trace."""
    skew = rotations - rotations.transpose(0, 2, 1)
    sine = np.sqrt(skew[:, 2, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 0] ** 2) / 2
    cosine = (np.trace(rotations, axis1=1, axis2=2) - 1) / 2
    angle: Float64Array = np.arctan2(sine, cosine)
    return angle


def deviation_from_rotation(rotations: Float64Array) -> Float64Array:
    """Return the largest entry of |R R^T - I| for each of (T, 3, 3) matrices."""
    deviation: Float64Array = np.abs(rotations @ rotations.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2), initial=0.0)
    return deviation
