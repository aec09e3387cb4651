"""The Pod Security Standard `restricted` as a PodSecurityPolicy, by which servers before 1.25 refuse pods.

It is the one policy there, so every pod is held against it.
"""

from tests.k8s.control_plane.processes import ControlPlane

ANY = {"rule": "RunAsAny"}
SPEC = {
    "privileged": False, "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
    "requiredDropCapabilities": ["ALL"], "hostNetwork": False, "hostPID": False, "hostIPC": False,
    "volumes": ["configMap", "downwardAPI", "emptyDir", "persistentVolumeClaim", "projected", "secret"],
    "runAsUser": {"rule": "MustRunAsNonRoot"}, "supplementalGroups": ANY, "fsGroup": ANY, "seLinux": ANY,
}  # fmt: skip
POLICY = {
    "apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy",
    "metadata": {
        "name": "restricted",
        "annotations": {"seccomp.security.alpha.kubernetes.io/allowedProfileNames": "runtime/default"},
    },
    "spec": SPEC,
}  # fmt: skip


def demand(plane: ControlPlane) -> None:
    """Has the server refuse every pod that is not restricted."""
    with plane.client() as client:
        client.post("/apis/policy/v1beta1/podsecuritypolicies", json=POLICY).raise_for_status()
