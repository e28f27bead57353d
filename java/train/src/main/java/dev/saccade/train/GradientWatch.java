package dev.saccade.train;

import dev.saccade.Tensor;
import dev.saccade.train.io.Safetensors;
import dev.saccade.train.model.Parameter;
import dev.saccade.train.model.PolicyModel;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * Looks at every gradient before an optimizer step, and keeps what led to it: for finding the first
 * that is not finite in a step that is known to have one. It waits for the device all the time.
 */
final class GradientWatch implements Update {
  private final PolicyModel model;
  private final double maxNorm;
  private final Path folder;
  private final String where;
  private final Update update;
  private final List<Safetensors.Builder> operations = new ArrayList<>();
  private int updates;

  /**
   * @param maxNorm of the optimizer
   * @param folder receives the operations of the update that is at fault
   * @param where the step, for the message
   * @param update what else is to be done
   */
  GradientWatch(PolicyModel model, double maxNorm, Path folder, String where, Update update) {
    this.model = model;
    this.maxNorm = maxNorm;
    this.folder = folder;
    this.where = where;
    this.update = update;
  }

  @Override
  public void prepare() {
    update.prepare();
  }

  @Override
  public boolean looks() {
    return true;
  }

  @Override
  public void ran(Supplier<OperationCase> operation) {
    operations.add(operation.get().file());
  }

  /**
   * @throws GradientFaultException if a gradient is not finite
   */
  @Override
  public void step(Tensor norm) {
    updates++;
    List<Parameter> broken =
        model.parameters().stream().filter(p -> !isFinite(p.gradient())).toList();
    if (!broken.isEmpty()) {
      throw fault(broken);
    }
    operations.clear();
    update.step(norm);
  }

  private GradientFaultException fault(List<Parameter> broken) {
    List<Tensor> gradients = broken.stream().map(Parameter::gradient).toList();
    List<String> names = broken.stream().map(Parameter::name).toList();
    operations.add(
        OperationCase.gradNorm(gradients, maxNorm)
            .file()
            .metadata("tensors", String.join(", ", names)));
    String weights =
        model.parameters().stream()
            .filter(p -> !isFinite(p.value()))
            .map(p -> " The weights of " + p.name() + " are not finite either.")
            .findFirst()
            .orElse("");
    try {
      write();
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
    return new GradientFaultException(
        "%s, update %d: the gradient of %s is not finite%s; 'saccade op %s' runs the operations of this update.%s"
            .formatted(
                where,
                updates,
                names.get(0),
                names.size() == 1 ? "" : " (and %d others)".formatted(names.size() - 1),
                folder,
                weights));
  }

  private void write() throws IOException {
    Files.createDirectories(folder);
    try (Stream<Path> old = Files.list(folder)) {
      for (Path file : old.toList()) {
        Files.delete(file);
      }
    }
    for (int i = 0; i < operations.size(); i++) {
      Safetensors file = operations.get(i).build();
      file.write(folder.resolve("%d-%s.safetensors".formatted(i + 1, file.metadata().get("op"))));
    }
  }

  private static boolean isFinite(Tensor tensor) {
    for (float value : tensor.toFloats()) {
      if (!Float.isFinite(value)) {
        return false;
      }
    }
    return true;
  }
}
