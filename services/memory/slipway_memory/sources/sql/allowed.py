"""What a query may call. All of it is looked up in pg_catalog, computes with its arguments alone, and makes no rows.

Left out on purpose: what reads the server's files, settings, catalogues or other sessions, what runs SQL given as text,
what waits, what grows a value without bound (repeat, lpad), and sets of rows out of nothing (generate_series).
"""

from __future__ import annotations

_AGGREGATES = """
any_value array_agg avg bit_and bit_or bool_and bool_or corr count covar_pop covar_samp every json_agg jsonb_agg
json_object_agg jsonb_object_agg max min mode percentile_cont percentile_disc regr_avgx regr_avgy regr_count
regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop
var_samp variance
"""
_WINDOW = """
cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
"""
_NUMBERS = """
abs acos asin atan atan2 ceil ceiling cos cot degrees div exp floor gcd lcm ln log log10 mod pi power radians round
scale sign sin sqrt tan trim_scale trunc width_bucket
"""
_TEXT = """
ascii bit_length btrim char_length character_length chr concat concat_ws initcap left length like_escape lower ltrim
md5 normalize octet_length overlay position regexp_count regexp_instr regexp_like regexp_match regexp_replace
regexp_substr replace reverse right rtrim similar_to_escape split_part starts_with strpos substr substring to_char
to_number translate upper
"""
_TIMES = """
age date_bin date_part date_trunc extract isfinite justify_days justify_hours justify_interval make_date make_interval
make_time make_timestamp make_timestamptz now overlaps timezone to_date to_timestamp
"""
_DOCUMENTS = """
json_array_length jsonb_array_length json_build_array jsonb_build_array json_build_object jsonb_build_object
json_extract_path json_extract_path_text jsonb_extract_path jsonb_extract_path_text json_strip_nulls jsonb_strip_nulls
json_typeof jsonb_typeof to_json to_jsonb
"""
_ARRAYS = """
array_append array_cat array_length array_ndims array_position array_positions array_prepend array_remove array_replace
array_to_string cardinality string_to_array
"""

_OPERATORS = """
= <> != < <= > >= + - * / % ^ || ~~ !~~ ~~* !~~* ~ !~ ~* !~* -> ->> #> #>> @> <@ ? ?| ?& && & | # << >> @ |/
"""
# What BETWEEN is called in the parser's tree.
_RANGES = ("BETWEEN", "NOT BETWEEN", "BETWEEN SYMMETRIC", "NOT BETWEEN SYMMETRIC")
_TYPES = """
int2 int4 int8 smallint integer bigint numeric decimal float4 float8 real text varchar bpchar char bool boolean date
time timetz timestamp timestamptz interval uuid json jsonb
"""
_VALUE_FUNCTIONS = """
SVFOP_CURRENT_DATE SVFOP_CURRENT_TIME SVFOP_CURRENT_TIME_N SVFOP_CURRENT_TIMESTAMP SVFOP_CURRENT_TIMESTAMP_N
SVFOP_LOCALTIME SVFOP_LOCALTIME_N SVFOP_LOCALTIMESTAMP SVFOP_LOCALTIMESTAMP_N
"""

FUNCTIONS = frozenset((_AGGREGATES + _WINDOW + _NUMBERS + _TEXT + _TIMES + _DOCUMENTS + _ARRAYS).split())
OPERATORS = frozenset((*_OPERATORS.split(), *_RANGES))
TYPES = frozenset(_TYPES.split())
VALUE_FUNCTIONS = frozenset(_VALUE_FUNCTIONS.split())
