package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_adamw_args;
import dev.saccade.binding.saccade_adamw_tensor;
import java.util.List;
import java.util.Set;

/**
 * One step of Adam with decoupled weight decay (arXiv 1711.05101) over many tensors, in place, in
 * one pass.
 *
 * <p>With g = grad·gradScale: m ← β1·m + (1 - β1)·g; v ← β2·v + (1 - β2)·g²; param ← param·(1 -
 * lr·weightDecay) - lr·m̂/(√v̂ + eps), m̂ = m/(1 - β1^step), v̂ = v/(1 - β2^step). Weights and
 * moments are f32.
 */
public final class AdamW {
  private static final Set<DType> BF16 = Set.of(DType.BF16);

  private AdamW() {}

  /**
   * @param lr learning rate; finite, 0 or more
   * @param beta1 decay of the first moment, in [0, 1)
   * @param beta2 decay of the second moment, in [0, 1)
   * @param eps finite, above 0
   * @param gradScale multiplies the gradients; finite
   */
  public record Options(float lr, float beta1, float beta2, float eps, float gradScale) {
    /** β1 0.9, β2 0.999, eps 1e-8, gradients as they are. */
    public static Options of(float lr) {
      return new Options(lr, 0.9f, 0.999f, 1e-8f, 1.0f);
    }

    public Options withLr(float lr) {
      return new Options(lr, beta1, beta2, eps, gradScale);
    }

    public Options withBeta1(float beta1) {
      return new Options(lr, beta1, beta2, eps, gradScale);
    }

    public Options withBeta2(float beta2) {
      return new Options(lr, beta1, beta2, eps, gradScale);
    }

    public Options withEps(float eps) {
      return new Options(lr, beta1, beta2, eps, gradScale);
    }

    public Options withGradScale(float gradScale) {
      return new Options(lr, beta1, beta2, eps, gradScale);
    }
  }

  /**
   * A weight tensor with its optimizer state: dense, all of one shape.
   *
   * @param param f32, updated
   * @param grad f32
   * @param m f32, first moment, updated; 0 before the first step
   * @param v f32, second moment, updated; 0 before the first step
   * @param paramBf16 bf16, overwritten by the rounded new weights; null where no copy is wanted
   * @param weightDecay finite, 0 or more
   */
  public record Parameter(
      Tensor param, Tensor grad, Tensor m, Tensor v, Tensor paramBf16, float weightDecay) {
    /** A parameter without a bf16 copy, its moments new tensors of zeros in {@code scope}. */
    public static Parameter of(Scope scope, Tensor param, Tensor grad, float weightDecay) {
      return new Parameter(
          param,
          grad,
          Tensor.zeros(scope, DType.F32, param.shape()),
          Tensor.zeros(scope, DType.F32, param.shape()),
          null,
          weightDecay);
    }

    public Parameter withParamBf16(Tensor paramBf16) {
      return new Parameter(param, grad, m, v, paramBf16, weightDecay);
    }
  }

  /**
   * Values given as data instead of options; any may be null.
   *
   * @param lr f32[1], takes the place of {@link Options#lr}
   * @param gradScale f32[1], takes the place of {@link Options#gradScale}, such as {@link
   *     GradNorm.Outputs#scale}; where it is not finite the step is skipped: weights and moments
   *     stay, bf16 copies are written from the weights
   * @param step i64[1], takes the place of the step
   * @param skipped i32[1], incremented by a skipped step
   */
  public record Scalars(Tensor lr, Tensor gradScale, Tensor step, Tensor skipped) {
    /** Everything from the options. */
    public static final Scalars NONE = new Scalars(null, null, null, null);

    public Scalars withLr(Tensor lr) {
      return new Scalars(lr, gradScale, step, skipped);
    }

    public Scalars withGradScale(Tensor gradScale) {
      return new Scalars(lr, gradScale, step, skipped);
    }

    public Scalars withStep(Tensor step) {
      return new Scalars(lr, gradScale, step, skipped);
    }

    public Scalars withSkipped(Tensor skipped) {
      return new Scalars(lr, gradScale, step, skipped);
    }
  }

  /**
   * Takes a step.
   *
   * @param step number of the step, 1 or more; corrects the bias of the moments
   * @throws InvalidArgumentException if a type, shape or option is wrong, or what is written
   *     overlaps another tensor of its or another parameter
   */
  public static void step(
      Context context, List<Parameter> parameters, Options options, long step, Scalars scalars) {
    try (Call call = context.begin("adamw");
        var entries = new saccade_adamw_tensor(Math.max(1, parameters.size()))) {
      int i = 0;
      for (Parameter parameter : parameters) {
        fill(call, entries.position(i), "entries[" + i++ + "].", parameter);
      }
      entries.position(0);
      var args = call.args(saccade_adamw_args.class, saccade_adamw_args::new);
      args.tensors(parameters.size())
          .entries(entries.address())
          .lr(options.lr())
          .beta1(options.beta1())
          .beta2(options.beta2())
          .eps(options.eps())
          .grad_scale(options.gradScale())
          .step(step)
          .lr_scalar(call.optionalF32("lr_scalar", scalars.lr(), 1))
          .grad_scale_scalar(call.optionalF32("grad_scale_scalar", scalars.gradScale(), 1))
          .step_scalar(
              scalars.step() == null
                  ? 0
                  : call.check("step_scalar", scalars.step(), Types.I64, 1).address())
          .skipped(call.optionalI32("skipped", scalars.skipped(), 1));
      call.invoke(Saccade.saccade_adamw(context.handle(), args));
    }
  }

  /** Takes a step with every value from the options. */
  public static void step(Context context, List<Parameter> parameters, Options options, long step) {
    step(context, parameters, options, step, Scalars.NONE);
  }

  private static void fill(
      Call call, saccade_adamw_tensor entry, String prefix, Parameter parameter) {
    Tensor param = parameter.param();
    entry.param(call.ofAnyShape(prefix + "param", param, Types.F32).address());
    long[] shape = param.shape();
    entry
        .grad(call.f32(prefix + "grad", parameter.grad(), shape))
        .m(call.f32(prefix + "m", parameter.m(), shape))
        .v(call.f32(prefix + "v", parameter.v(), shape))
        .param_bf16(0)
        .count(param.size())
        .weight_decay(parameter.weightDecay())
        .reserved(0);
    Tensor copy = parameter.paramBf16();
    if (copy != null) {
      String name = prefix + "param_bf16";
      entry.param_bf16(call.check(name, copy, BF16, shape).address());
      if (!copy.isDense()) {
        throw call.invalid(name, "a dense tensor", copy.describe() + " with gaps between its rows");
      }
    }
  }
}
