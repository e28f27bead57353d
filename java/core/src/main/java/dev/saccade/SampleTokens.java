package dev.saccade;

import dev.saccade.binding.Saccade;
import dev.saccade.binding.saccade_sample_tokens_args;
import java.util.Set;

/**
 * Draws one token a row from softmax(logits / temperature); at temperature 0 the token of the
 * largest logit, the first of equals.
 *
 * <p>The uniform number of a row is that of Philox4x32-10 with key {@code seed} and counter ({@code
 * offset}, stream of the row), and nothing else: a row draws the same token in whatever batch it
 * is. The draw is the first token whose cumulative probability exceeds the number. A logit of -inf
 * is a masked token, which is never drawn. A row with NaN or +inf, or of nothing but -inf, gives
 * -1.
 *
 * <p>With {@code topP} the draw is from the nucleus: the tokens whose logit is at least the largest
 * value at which the probability of all tokens with at least that logit reaches {@code topP}.
 * Tokens that tie with the last one all stay, and their probabilities keep their proportions
 * (Holtzman et al., "The Curious Case of Neural Text Degeneration", ICLR 2020).
 *
 * <p>Philox: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */
public final class SampleTokens {
  private static final Set<DType> I64 = Set.of(DType.I64);

  private SampleTokens() {}

  /**
   * @param temperature divides the logits; finite, at least 0; 0 takes the largest
   * @param seed key of the random numbers
   * @param offset counter of the random numbers, one for every draw of a stream: the position of
   *     the token, say
   * @param offsetScalar i64[1] that takes the place of {@code offset}, read when the operation
   *     runs; or null
   * @param topP probability of the nucleus, in (0, 1]; 1, and 0 too, is all tokens
   */
  public record Options(
      float temperature, long seed, long offset, Tensor offsetScalar, float topP) {
    /** Temperature 0: the largest logit; no random number is used. */
    public static final Options GREEDY = new Options(0.0f, 0, 0, null);

    /** All tokens, and an offset that is known at the call. */
    public Options(float temperature, long seed, long offset) {
      this(temperature, seed, offset, null);
    }

    /** All tokens. */
    public Options(float temperature, long seed, long offset, Tensor offsetScalar) {
      this(temperature, seed, offset, offsetScalar, 1.0f);
    }

    public Options withTemperature(float temperature) {
      return new Options(temperature, seed, offset, offsetScalar, topP);
    }

    public Options withSeed(long seed) {
      return new Options(temperature, seed, offset, offsetScalar, topP);
    }

    public Options withOffset(long offset) {
      return new Options(temperature, seed, offset, offsetScalar, topP);
    }

    public Options withOffsetScalar(Tensor offsetScalar) {
      return new Options(temperature, seed, offset, offsetScalar, topP);
    }

    public Options withTopP(float topP) {
      return new Options(temperature, seed, offset, offsetScalar, topP);
    }
  }

  /**
   * Draws into a tensor that the caller gives.
   *
   * @param logits f32, bf16 or f16 [R, V], V at least 1; rows may have a stride
   * @param stream i32[R], the random stream of each row, or null for 0, 1, 2, …
   * @param tokens out, i32[R]
   * @throws InvalidArgumentException if a type, shape or option is wrong
   */
  public static void sample(
      Context context, Tensor logits, Tensor stream, Options options, Tensor tokens) {
    try (Call call = context.begin("sample_tokens")) {
      var args = call.args(saccade_sample_tokens_args.class, saccade_sample_tokens_args::new);
      args.logits(call.strided("logits", logits, DType.FLOAT, -1, -1));
      long rows = logits.shape(0);
      Tensor offset = options.offsetScalar();
      args
          .rows(rows)
          .vocabulary(logits.shape(1))
          .logits_stride(logits.stride(0))
          .logits_dtype(logits.dtype().code())
          .temperature(options.temperature())
          .seed(options.seed())
          .offset(options.offset())
          .offset_scalar(offset == null ? 0 : call.strided("offset_scalar", offset, I64, 1))
          .stream(call.optionalI32("stream", stream, rows))
          .tokens(call.i32("tokens", tokens, rows))
          .top_p(options.topP());
      call.invoke(Saccade.saccade_sample_tokens(context.handle(), args));
    }
  }

  /** Draws into a new tensor i32[R] of {@code scope}, row r from stream r. */
  public static Tensor sample(Scope scope, Tensor logits, Options options) {
    long rows = Call.shapeOf(scope, "sample_tokens", "logits", logits, DType.FLOAT, -1, -1)[0];
    Tensor tokens = Tensor.empty(scope, DType.I32, rows);
    sample(scope.context(), logits, null, options, tokens);
    return tokens;
  }
}
