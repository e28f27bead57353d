package dev.saccade.benchmarks;

import java.util.Map;
import java.util.TreeMap;

/**
 * A benchmark at one shape.
 *
 * @param benchmark its class, without package and "Benchmark"
 * @param method of it
 * @param params that differ from their defaults
 * @param model whose shape it is, empty for none
 * @param axis what grows in the series that this is a point of, a parameter's name; empty for none
 * @param isQuick whether a short run has it too
 * @param isSaccades whether no other engine of the JVM has it
 */
record Case(
    String benchmark,
    String method,
    Map<String, String> params,
    String model,
    String axis,
    boolean isQuick,
    boolean isSaccades) {
  static Case of(String benchmark, String method) {
    return new Case(benchmark, method, Map.of(), "", "", false, false);
  }

  /** With one more parameter. */
  Case with(String name, Object value) {
    Map<String, String> more = new TreeMap<>(params);
    more.put(name, value.toString());
    return new Case(benchmark, method, more, model, axis, isQuick, isSaccades);
  }

  Case of(Model shape) {
    return new Case(benchmark, method, params, shape.title, axis, isQuick, isSaccades);
  }

  /** A point of a series. */
  Case along(String name, int value) {
    Case point = with(name, value);
    return new Case(benchmark, method, point.params, model, name, false, isSaccades);
  }

  Case quick() {
    return new Case(benchmark, method, params, model, axis, true, isSaccades);
  }

  Case saccades() {
    return new Case(benchmark, method, params, model, axis, isQuick, true);
  }

  /** As JMH names it. */
  String name() {
    return Case.class.getPackageName() + "." + benchmark + "Benchmark." + method;
  }

  /** The operation, in snake case, whatever is special about this use of it. */
  String operation() {
    return workload().operation().replaceAll(" .*", "");
  }

  /** The benchmark with these parameters. */
  OperationBenchmark instance() {
    OperationBenchmark instance = OperationBenchmark.of(name());
    params.forEach(instance::with);
    return instance;
  }

  Workload workload() {
    return instance().workload(method);
  }
}
