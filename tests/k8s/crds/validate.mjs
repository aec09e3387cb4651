// Reads objects as a JSON list from standard input and writes what their published schemas have against each.
import { readFileSync } from "node:fs";
import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import { ScaledObject } from "@kubernetes-models/keda/keda.sh/v1alpha1";
import { PodMonitor, PrometheusRule, ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const kinds = { HTTPRoute, ScaledObject, PodMonitor, PrometheusRule, ServiceMonitor };
const check = (one) => {
  try {
    new kinds[one.kind](one).validate();
    return null;
  } catch (error) {
    return error.message;
  }
};
console.log(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(check)));
